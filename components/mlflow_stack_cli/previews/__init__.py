"""What a change of the program or of a stack file will do, in words, before anything is deployed."""
