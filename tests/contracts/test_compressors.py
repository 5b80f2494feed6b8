"""Every compressor keeps the same contract."""

from costwise_core import ExtractiveCompressor, RerankTrim, WhenWorthIt
from costwise_core.testing.compressors import CompressorContract


class TestExtractive(CompressorContract):
    def make_compressor(self):
        return ExtractiveCompressor()


class TestRerankTrim(CompressorContract):
    def make_compressor(self):
        return RerankTrim(top_k=2)


class TestWhenWorthIt(CompressorContract):
    def make_compressor(self):
        return WhenWorthIt(ExtractiveCompressor(), model="openai:gpt-4o")
