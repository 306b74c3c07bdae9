"""What tests share: builders and real servers. Things that are clever here have tests of their own."""
