"""What surrounds a kernel: its typed boundary, its way in from Python, its cache on disk, its threads."""
