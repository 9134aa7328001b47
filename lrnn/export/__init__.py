"""Write models of this project as folders that the Hugging Face ecosystem loads: python -m lrnn.export"""
