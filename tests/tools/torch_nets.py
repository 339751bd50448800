"""Networks whose usual kernels have a gradient, and no other derivative; inputs (n, 6, 4)."""

from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Attention whose fused kernel has a gradient alone."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = self.into(inputs)[:, None]
        return self.out(scaled_dot_product_attention(hidden, hidden, hidden)[:, 0].mean(1))


class Recurrent(nn.Module):
    """The last output of an LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs):
        return self.out(self.lstm(inputs)[0][:, -1])
