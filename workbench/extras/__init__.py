"""What needs more than the front door does: each module names the pip extra that it wants."""
