"""What a run needs, and what is wrong with it: rows, images and weight files, before anything is loaded."""
