"""apibench: how robust are the commercial image-labelling APIs, and does purifying the image first help?"""

__version__ = "0.1.0"
