"""Previews: the effects of a change to the program or a stack file, described before deployment."""
