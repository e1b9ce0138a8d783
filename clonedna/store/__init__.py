"""What is kept: block directories, the catalogue over them, and `.dna` archives. Files are the truth; a block never changes."""
