"""This package writes each crawl into the history that Redis keeps."""
