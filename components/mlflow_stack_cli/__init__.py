"""Command line for stacks of any Pulumi project that declares an MlflowStack, on any cluster."""
