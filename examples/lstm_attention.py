"""An own model as a plugin: stockenh train --plugin lstm_attention.py model=lstm_attention"""

import torch
from torch import nn

import stockenh


class LSTMAttention(nn.Module):
    def __init__(self, inputs, hidden, layers, dropout):
        super().__init__()
        self.lstm = nn.LSTM(5, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.attention = nn.MultiheadAttention(hidden, 2, dropout=dropout, batch_first=True)
        self.rest = nn.Linear(inputs.embedding + inputs.context, hidden)
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * hidden, 2 * inputs.horizons))

    def forward(self, prices, embedding, context):
        states, _ = self.lstm(prices)
        mixed, _ = self.attention(states[:, -1:], states, states)
        rest = self.rest(torch.cat([embedding, context], -1))
        ret, up_logits = self.head(torch.cat([mixed[:, 0], rest], -1)).chunk(2, -1)
        return ret, up_logits


@stockenh.plugin("model", "lstm_attention")
class Settings:
    """An LSTM whose last state attends to all states."""

    hidden: int = 32  # units of the LSTM, an even number
    layers: int = 1  # LSTM layers
    dropout: float = 0.1  # probability of dropout

    def build(self, inputs):
        return LSTMAttention(inputs, self.hidden, self.layers, self.dropout)
