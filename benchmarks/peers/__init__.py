"""What Bentovox is measured against."""
