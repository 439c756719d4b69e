"""Platform for a machine that has none: engine, one-node cluster, images and services."""
