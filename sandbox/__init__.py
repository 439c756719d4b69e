"""Sandbox: a platform for a machine without one, with engine, one-node cluster, images and services."""
