"""The text of a formula -> its terms; nothing is evaluated here."""
