"""What hears: one Protocol, and the engines that keep it."""
