"""Side by side."""


def compare_results(folders, output, folder):
    raise NotImplementedError
