//! Checksums of data: CRC32C for every block on its way, SHA-256 for the chunk as a whole.

use crate::limits::BLOCK_SIZE;
use sha2::{Digest, Sha256};

/// CRC32C (Castagnoli, as iSCSI has it).
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC32C of each block of 64 KiB, the last one possibly shorter.
pub fn block_crcs(data: &[u8]) -> Vec<u32> {
    data.chunks(BLOCK_SIZE as usize).map(crc32c).collect()
}

/// The number of the first block that does not match its CRC32C. A block without a CRC, or a CRC without a block, does not match.
pub fn first_bad_block(data: &[u8], block_crcs: &[u32]) -> Option<usize> {
    let blocks = data.chunks(BLOCK_SIZE as usize);
    let (have, want) = (blocks.len(), block_crcs.len());
    let differs = blocks.zip(block_crcs).position(|(block, crc)| crc32c(block) != *crc);
    differs.or((have != want).then(|| have.min(want)))
}

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_the_standard_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_block_has_its_own_crc() {
        let data = vec![7; 2 * BLOCK_SIZE as usize + 1];
        let crcs = block_crcs(&data);
        assert_eq!(crcs.len(), 3);
        assert_eq!(crcs[0], crcs[1]);
        assert_eq!(crcs[2], crc32c(&[7]));
        assert!(block_crcs(&[]).is_empty());
    }

    #[test]
    fn the_first_bad_block_is_found() {
        let mut data = vec![7; 2 * BLOCK_SIZE as usize + 1];
        let crcs = block_crcs(&data);
        assert_eq!(first_bad_block(&data, &crcs), None);
        assert_eq!(first_bad_block(&data, &crcs[..2]), Some(2));
        assert_eq!(first_bad_block(&data[..1], &crcs[2..]), None);
        assert_eq!(first_bad_block(&[], &crcs), Some(0));
        data[BLOCK_SIZE as usize] = 0;
        assert_eq!(first_bad_block(&data, &crcs), Some(1));
    }
}
