"""The HTTP service: shows the newest snapshot in every form, and has workers run checks. Stateless."""
