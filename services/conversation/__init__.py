"""What needs several engines: translates texts and speech by calling the other roles."""
