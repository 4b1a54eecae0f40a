"""What every room uses: files and their formats, processes, console, newer PyTorch's parts."""
