"""What people can do: verdicts as sentences, commands that are filled in, and where help counts most."""
