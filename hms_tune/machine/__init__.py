"""What this computer has: cores, devices, memory, processes."""
