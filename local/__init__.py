"""A platform on one machine, for those who have none: the Pulumi engine, a one-node cluster and their command line."""
