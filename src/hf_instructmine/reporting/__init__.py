"""One HTML page that shows what the folders of this project hold."""
