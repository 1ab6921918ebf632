"""What an image's layers contain and weigh, and whether they may be shipped."""
