"""Speed and quality against baselines, measured in one run: `python -m bench`, or `make bench`."""
