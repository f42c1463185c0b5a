"""What `make prove-compose` proves, by subject. A promise is a function: it says what was seen, or raises."""
