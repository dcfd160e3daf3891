"""The commands: each reads its options, calls one function, and prints what it returns."""
