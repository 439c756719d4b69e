"""Images built on this machine, from Debian packages and PyPI, without a registry or a container engine."""
