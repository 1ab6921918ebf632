"""What needs several engines: translations and live conversations, by calling the other roles."""
