"""What all tools share: arguments, start of several processes, errors in one line."""
