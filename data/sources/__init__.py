"""The data sets that `data/load_dataset.py` knows: one file each, and one row here.

A file says where the set is on the hub, which of its columns become which of ours, how the question is put to the
model, and under which `data_source` its answers are scored; nothing else. (The folder is not called `datasets`: it
would hide Hugging Face's package when a tool runs from `data/`.)
"""

from verl.registry import Table

SOURCES = Table(
    "dataset",
    {
        "lasgroup/verifiable-corpus": "data.sources.verifiable_corpus:SOURCE",
        "Idavidrein/gpqa-D": "data.sources.gpqa:SOURCE",
        "TIGER-Lab/MMLU-Pro": "data.sources.mmlu_pro:SOURCE",
        "Biology": "data.sources.sciknoweval:BIOLOGY",
        "Chemistry": "data.sources.sciknoweval:CHEMISTRY",
        "Material": "data.sources.sciknoweval:MATERIAL",
        "Physics": "data.sources.sciknoweval:PHYSICS",
        "tooluse": "data.sources.tooluse:SOURCE",
        # mathematics
        "math-ai/aime24": "data.sources.aime24:SOURCE",
        "math-ai/aime25": "data.sources.aime25:SOURCE",
        "math-ai/amc23": "data.sources.amc23:SOURCE",
        "math-ai/math500": "data.sources.math500:SOURCE",
        "openai/gsm8k": "data.sources.gsm8k:SOURCE",
        "POLARIS-Project/Polaris-Dataset-53K": "data.sources.polaris:SOURCE",
        "zwhe99/DeepMath-103K": "data.sources.deepmath:SOURCE",
        # programming
        "livecodebench/code_generation_lite-v6": "data.sources.livecodebench:SOURCE",
        "open-r1/codeforces": "data.sources.codeforces:SOURCE",
        "Qwen/CodeElo": "data.sources.code_elo:SOURCE",
        "evalplus/humanevalplus": "data.sources.humanevalplus:SOURCE",
        "evalplus/mbppplus": "data.sources.mbppplus:SOURCE",
        "BAAI/TACO": "data.sources.taco:SOURCE",
        "PrimeIntellect/verifiable-coding-problems": "data.sources.primeintellect:SOURCE",
        "agentica-org/DeepCoder-Preview-Dataset": "data.sources.deepcoder:SOURCE",
    },
)
