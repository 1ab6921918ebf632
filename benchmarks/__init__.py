"""Side-by-side measurements of Bentovox, the libraries beneath it and its peers."""
