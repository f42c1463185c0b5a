"""Shows the snapshot in every form, and brings reachability questions to the workers. Stateless."""
