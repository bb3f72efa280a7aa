"""All architectures side by side: runs, costs, and the page that shows them."""
