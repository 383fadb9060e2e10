"""What families find beside the cells: tables that surgery left, and the pictures of them."""
