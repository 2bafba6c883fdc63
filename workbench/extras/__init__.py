"""What needs more than the public names do: each module names the pip extra that it wants."""
