//! The 16-bit check of a row's stored vector.

/// CRC-16/IBM-3740 (polynomial 0x1021, initial value 0xFFFF): finds every single flipped bit and every burst of up
/// to 16 bits in a row's vector, for which Parquet writes no check of its own.
pub fn check16(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFFu16;
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        // The fourteen look-ups that do not wait for the block before.
        let mut next = 0;
        for at in 2..16 {
            next ^= TABLES[15 - at][usize::from(block[at])];
        }
        let [high, low] = crc.to_be_bytes();
        crc = next ^ TABLES[15][usize::from(block[0] ^ high)] ^ TABLES[14][usize::from(block[1] ^ low)];
    }
    for &byte in rest {
        crc = (crc << 8) ^ TABLES[0][usize::from(byte ^ (crc >> 8) as u8)];
    }
    crc
}

/// `TABLES[n][b]` is the CRC of byte b followed by n zero bytes: sixteen bytes per step ("slicing").
static TABLES: [[u16; 256]; 16] = tables();

const fn tables() -> [[u16; 256]; 16] {
    let mut tables = [[0u16; 256]; 16];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 16 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[slice - 1][byte];
            tables[slice][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

#[cfg(test)]
mod tests;
