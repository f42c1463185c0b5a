"""The door to hivemind and petals: nothing outside this package imports either."""
