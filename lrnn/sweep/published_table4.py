"""The paper's Table 4: language models of 340M to 1.3B parameters on tasks of lm-evaluation-harness.

Rows on FineWeb are the paper's own runs. The paper copied those on SlimPajama from Yang et al. 2024b. Each row is one
run, without error bars. Columns named ppl are perplexities, for which less is better; the others are percentages.
"""

# column -> task and metric of the harness; Avg is the mean of the six accuracies between LMB ppl and SWDE
COLUMNS = {
    "Wiki ppl": ("wikitext", "word_perplexity"),
    "LMB ppl": ("lambada_openai", "perplexity"),
    "LMB": ("lambada_openai", "acc"),
    "PIQA": ("piqa", "acc"),
    "Hella": ("hellaswag", "acc_norm"),
    "Wino": ("winogrande", "acc"),
    "ARC-e": ("arc_easy", "acc"),
    "ARC-c": ("arc_challenge", "acc_norm"),
    "Avg": None,
    "SWDE": ("swde", "contains"),
    "SQUAD": ("squad_completion", "contains"),
    "FDA": ("fda", "contains"),
}
AVERAGED = ("LMB", "PIQA", "Hella", "Wino", "ARC-e", "ARC-c")

PUBLISHED_TABLE_4 = {
    "340M, SlimPajama 15B": {
        "Transformer++": (28.39, 42.69, 31.0, 63.3, 34.0, 50.4, 44.5, 24.2, 41.2, 42.2, 22.1, 21.4),
        "Mamba [0, 1]": (28.39, 39.66, 30.6, 65.0, 35.4, 50.1, 46.3, 23.6, 41.8, 12.4, 23.0, 2.1),
        "GLA": (29.47, 45.53, 31.3, 65.1, 33.8, 51.6, 44.4, 24.6, 41.8, 24.0, 24.7, 7.3),
        "DeltaNet [0, 1]": (28.24, 37.37, 32.1, 64.8, 34.3, 52.2, 45.8, 23.5, 42.1, 26.4, 28.9, 12.8),
    },
    "340M and 370M, FineWeb 100B": {
        "DeltaNet [0, 1]": (24.68, 31.49, 33.7, 70.3, 45.1, 51.3, 50.0, 26.1, 46.1, 35.2, 28.7, 11.8),
        "DeltaNet [-1, 1]": (24.54, 31.15, 34.0, 69.9, 44.6, 51.9, 50.0, 24.4, 45.8, 37.2, 33.1, 6.6),
        "Mamba [0, 1]": (24.84, 24.69, 35.6, 70.6, 48.4, 51.2, 53.4, 24.8, 47.3, 21.6, 27.7, 2.8),
        "Mamba [-1, 1]": (25.02, 24.71, 36.2, 70.5, 47.8, 53.3, 54.7, 26.7, 48.2, 20.9, 24.8, 2.5),
    },
    "1.3B, SlimPajama 100B": {
        "Transformer++": (16.85, 13.44, 48.9, 70.8, 49.6, 53.6, 56.0, 26.5, 50.9, 66.6, 31.5, 27.4),
        "Mamba [0, 1]": (17.06, 13.89, 46.2, 72.2, 40.1, 54.1, 59.0, 28.2, 50.0, 41.4, 35.2, 6.2),
        "GLA": (17.22, 14.47, 46.9, 71.8, 49.8, 53.9, 57.2, 26.6, 51.0, 50.6, 42.6, 19.9),
        "DeltaNet [0, 1]": (16.87, 12.21, 48.9, 71.2, 50.2, 53.6, 57.2, 28.3, 51.6, 49.5, 37.4, 17.2),
    },
    "1.3B, FineWeb 100B": {
        "DeltaNet [0, 1]": (18.54, 14.32, 43.5, 73.7, 56.2, 56.9, 58.2, 29.9, 53.1, 49.1, 35.1, 8.6),
        "DeltaNet [-1, 1]": (18.57, 12.73, 43.7, 73.3, 55.8, 56.8, 56.9, 27.9, 52.4, 48.8, 33.9, 12.3),
    },
}
