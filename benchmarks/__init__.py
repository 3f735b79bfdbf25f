"""What the claims about speed rest on. Each measurement can be repeated with `nightshift bench`."""
