"""Does synthetic data help? Classifiers of several arms, alike in all but their images, over fractions of patients."""
