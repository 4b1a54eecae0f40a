"""A web page that shows predictions (extra ``webapp``); only ``app`` needs Gradio."""
