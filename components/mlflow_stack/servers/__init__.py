"""Tracking server, model servers and the tracking server's encryption keys."""
