"""Whether a choice of rows beats a random one."""
