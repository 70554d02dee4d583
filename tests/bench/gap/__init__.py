"""The testbed `gap`: training problems that are all too easy or all too hard, with nothing between."""
