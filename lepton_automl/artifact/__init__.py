"""The folder that ships: its files, their verification on the test part, and the verdict."""
