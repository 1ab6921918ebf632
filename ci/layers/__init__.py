"""What an image's layers hold, what they weigh, and whether they may be shipped."""
