"""How results leave the house: dataset cards, figures, folders and the Hub."""
