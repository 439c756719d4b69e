"""Cost of the stack, as ratios measured side by side in one run: `make bench`."""
