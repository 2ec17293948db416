//! The 16-bit check of a row's stored vector: carry-less products (PCLMULQDQ), and a scalar twin.
#![allow(unsafe_code)]

/// CRC-16/IBM-3740 (polynomial 0x1021, initial value 0xFFFF): finds every single flipped bit and every burst of up
/// to 16 bits in a row's vector, for which Parquet writes no check of its own.
pub fn check16(bytes: &[u8]) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if let ([first, blocks @ ..], rest) = bytes.as_chunks::<64>()
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("ssse3")
    {
        // SAFETY: the features were detected on this machine.
        let folded = unsafe { fold(first, blocks) };
        return tabled(tabled(0, &folded), rest);
    }
    tabled(0xFFFF, bytes)
}

/// Sixteen bytes that leave the same remainder as all blocks, the first of which has the initial value added: folding as in
/// Gopal et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ (Intel, 2009), in four lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn fold(first: &[u8; 64], blocks: &[[u8; 64]]) -> [u8; 16] {
    use std::arch::x86_64::*;
    // x¹⁹² and x¹²⁸, x⁵⁷⁶ and x⁵¹² modulo the polynomial: what the halves of sixteen bytes are worth 128 and 512 bits on.
    let (beside, apart) = (_mm_set_epi64x(0x650b, 0xaefc), _mm_set_epi64x(0x8832, 0x13fc));
    // The first byte of a message has its highest powers.
    let turn = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // SAFETY: sixteen bytes from each multiple of sixteen on.
    let load = |block: &[u8; 64]| -> [__m128i; 4] {
        std::array::from_fn(|lane| unsafe {
            _mm_shuffle_epi8(_mm_loadu_si128(block[16 * lane..].as_ptr().cast()), turn)
        })
    };
    let onward = |lane: __m128i, by: __m128i| {
        _mm_xor_si128(_mm_clmulepi64_si128::<0x11>(lane, by), _mm_clmulepi64_si128::<0x00>(lane, by))
    };
    let mut lanes = load(first);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_set_epi64x(0xFFFF << 48, 0));
    for block in blocks {
        let next = load(block);
        lanes = std::array::from_fn(|lane| _mm_xor_si128(onward(lanes[lane], apart), next[lane]));
    }
    let folded = lanes[1..].iter().fold(lanes[0], |sum, lane| _mm_xor_si128(onward(sum, beside), *lane));
    let mut out = [0; 16];
    // SAFETY: there is room for sixteen bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_shuffle_epi8(folded, turn)) };
    out
}

/// The check of `bytes` after those whose check is `crc`.
fn tabled(mut crc: u16, bytes: &[u8]) -> u16 {
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
