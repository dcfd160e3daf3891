"""The files of a competition folder, read and checked one by one."""
